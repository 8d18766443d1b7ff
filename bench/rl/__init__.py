"""Reinforcement learning with verifiable rewards: what is gained by leaving out groups that have no gradient?

    python -m bench.rl --workers 14             all of it: costs, starts, learning rates, runs, checks, and the tables
    python -m bench.rl --report                 the tables of what is there
    python -m bench.rl --again --workers 14     on another machine: measured, tuned and run anew

What is there already is not made again, so that a run that was cut off goes on. On a quiet core the whole takes some 30
minutes, divided by the workers.

**The job.** A transformer of 103,000 parameters answers sums, differences, products, and digits to be reversed,
sorted or rotated, two to six of them; a reward is 1 where the whole answer is right. Before, it is told answers that
are right but for kinds that slip, the more the longer: so that of some prompts all answers are right, of some none,
and of the rest some. GRPO from there on: 32 prompts by 8 answers a pool, one update each, 1,024 prompts in shuffled
passes. A run is judged by the chance of a right answer to 512 other prompts, exactly, without dice.

**Arms.** `plain`; `exact`, `ps.nonzero()` with `refill=False`; `dynamic`, prompts drawn until 32 groups have a
gradient (DAPO); `downsampled`, of each group the half whose rewards vary most (PODS); `table`, prompts drawn by
sqrt(s (1 - s)) over a floor, `ps.table` and `ps.prioritizer`. All have the same pools' dice, optimizer and loss.

**Charges.** A pool of rollouts is the unit. A plain update costs 1, 3, or as many as were measured on the machine;
other updates cost the measured share of its time: half groups, and an exact update at each of its eight sizes with
the sifter's own time. What the rivals take to choose is not charged. The learning rate is constant, so that one run is
judged at every charge; it is tuned for each arm on one grid, widened while the best is at its edge, on seeds of its
own, by the success at the plain run's charge. The exact arm has the plain one's.

**Exact follows plain**: the same gradient, so the same curve at less time. Its speed is therefore read off the plain
runs, `exact, along plain`: their steps, charged for the groups that have a gradient. That the steps are the same is
checked by the weights after 50 of them, and the arm is run for itself too. Rounding may, late in a run, let another
token be said; from there on the two are two runs of one method.

**Declared before the runs**, on the seeds 0 to 4: along the plain runs, exact is at least 1.4 times as fast to the
plain run's final success at 1:1, 1.8 times at 1:3, and at no update of any seed, at no ratio, behind plain. Any other
arm, and exact run for itself, is *faster* where the 95 % interval of its speed, Student's over paired seeds in
logarithms, lies above 1 and it came to the plain run's success on all seeds, *slower* where it lies below 1. A run
that never came there counts as having just done so when it ended, at 1.2 times the plain run's charge or more.
"""
