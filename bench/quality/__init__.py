"""Does sifting pay? Arms that a sceptic would run, at equal cost, on several tasks, over several seeds.

    python -m bench.quality --measure                       first, on a quiet machine: what everything is charged
    python -m bench.quality --tune                          the learning rate of the plain arm, for all of them
    python -m bench.quality --tune --arms prioritized-0     one of its own for another arm
    python -m bench.quality --workers 2 --minutes 60        whatever runs are left, an hour of them
    python -m bench.quality --task scratch --arms shortened,importance --budgets 60,25 --seeds 0-9
    python -m bench.quality --real-time --task scratch      a few arms by the clock, against what they are charged
    python -m bench.quality --report                        tables and figures out of whatever is there

**Budget.** The unit is one plain training step at the task's batch shape. A batch trained on costs its rows' share of
a unit, by its padded length too where the arm picks its rows, for hard ones may be long; a row scored costs phi / batch
size, a pool what the sifter itself takes. All of it was measured before, in turns, and every run is charged the same.
A run ends with the step that brings it nearest to its budget; its learning rate goes up over 6 % and down to zero by
units spent. So the result of a run does not depend on what else the machine does, and two runs of a seed agree to the
bit; whether the units are right is what --real-time is for.

**Alike for all.** Batches of one size, sorted by length within windows of eight; pools of four batches, scored in
pieces of like length (a glance, at the first tokens alone, in one piece); precision, optimizer, schedule, evaluation.
The learning rate is tuned for the plain arm, on rows that are not the test rows (a picture's on another picture), and
for others only where tuning.json says so. Settings of the other arms are those of their sources; the column `trials`
counts what was tried. Arms drawn from the losses of training score nothing; they are charged their draws and what they
note, as if every batch were drawn by the rule.

**Declared before the runs**, on five seeds or more, paired by seed and test row, by a bootstrap over both. A *win*:
better than `shortened` and than `rs2` at the same budget, both 95 % intervals above zero, and than every `downsampled`
where the task has them. *Lossless*: on average within .3 points of `full`, and the lower end of the 95 % interval above
-1 point. A task with a metric of its own has one number a run; its intervals are Student's, over paired seeds.
"""
