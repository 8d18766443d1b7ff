"""Imported once, by the process that the runs to be killed are forked from: it takes longer than such a run trains."""

import matplotlib.backends.backend_agg
import matplotlib.figure
import transformers

IMPORTED = (matplotlib.backends.backend_agg, matplotlib.figure, transformers.BertForSequenceClassification)
