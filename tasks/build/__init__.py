"""Building a training set: duplicates, near duplicates, unfit files, secrets and evaluation problems taken out."""
