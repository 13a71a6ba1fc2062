"""The training loop, on Lightning: batches in, checkpoints out.

============  ======================================================================================
`average`     The moving average of the weights, which is validated, kept and exported
`checkpoint`  Checkpoints at regular steps, from which a run resumes exactly
`feed`        Draws batches ahead in a thread and converts them to tensors
`files`       The files of a run folder, each written atomically
`folder`      The run folder: creates it, checks it before a run is resumed, and reads it
`log`         The log of a run: one line per step, TensorBoard, and a progress bar
`module`      One optimiser step, as Lightning runs it
`record`      The record of a run: its provenance and its figures
`run`         Performs a run, from its configuration to its record
`schedule`    Learning rate and momentum of every step, which depend only on the step
`teacher`     A trained network whose output another network learns
`validation`  Validates the averaged weights on frames that are not in the training data
============  ======================================================================================

Lightning handles the steps, the precision and DDP. This package handles the state to resume
from and what determines a step (its batch and its rates).
"""
