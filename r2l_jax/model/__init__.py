"""The model from raw to logit: processors, augmentation, tasks and pretrained weights."""
