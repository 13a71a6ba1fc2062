"""What the daemon writes: refocused datasets with their ledgers, and previews.

====================  ==============================================================================
`acquisition_writer`  The thread that writes one acquisition: its refocused dataset and its ledger
`dataset`             An open acquisition on disk: its refocused frames and its ledger
`folder`              Which folder a run is written to, and the file in it that says what made it
`jobs`                What the writer is asked to do, one frozen object each
`metadata`            What is recorded of a refocused frame: its metadata, and its attempt in the ledger
`patience`            Calls to disks that may hang, made in a thread and abandoned after a time limit
`preview`             The newest refocused frame, reduced, for views
`trust_maps`          The trust maps of an output: a small dataset of their own inside of it
`writer`              Has every open acquisition written, each by a thread of its own
====================  ==============================================================================
"""
