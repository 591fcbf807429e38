"""Evaluation: detection metrics of the product and of every baseline on a labelled log, with plots and a report."""
