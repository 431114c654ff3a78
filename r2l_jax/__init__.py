"""Experiments with raw data and a differentiable ISP: data sets, training, drift controls."""
