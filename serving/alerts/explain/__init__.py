"""Alerts in plain words: phrases, rules and the commands that help an investigator."""
