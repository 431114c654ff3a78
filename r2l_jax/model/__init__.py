"""From raw to logit: the model, its augmentation, its tasks and its weights."""
