"""One module for each verb of `kpfeat`; they import torch when they run, so that help is quick."""
