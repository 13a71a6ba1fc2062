"""What the daemon writes: refocused datasets with their ledgers, and previews.

====================  ==============================================================================
`acquisition_writer`  The thread that writes one acquisition: its refocused dataset and its ledger
`dataset`             An open acquisition on disk: its refocused frames and its ledger
`folder`              Chooses the folder that a run is written to, and writes the file in it that says what made it
`jobs`                The writer's jobs, one frozen object each
`metadata`            Builds what is recorded of a refocused frame: its metadata, and its attempt in the ledger
`patience`            Calls functions that access disks in a thread, and abandons them after a time limit: disks may hang
`preview`             Keeps the newest refocused frame, reduced, for views
`trust_maps`          Writes the trust maps of an output, into a small dataset inside it
`writer`              Writes every open acquisition, each in its own thread
====================  ==============================================================================
"""
