"""A raw dataset with its refocused datasets and ledgers: found, reconciled, verified."""
