"""How good a model is: models as three functions, tasks from plain files, metrics, and a sandbox for code it writes."""
