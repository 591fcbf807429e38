"""Ablation: the detector with one choice changed at a time, judged on the same labelled log."""
