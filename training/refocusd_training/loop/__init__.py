"""The training loop, on Lightning: batches in, checkpoints out.

===============  ====================================================================
`run`            a run from its configuration to its record
`folder`         the run folder: made, checked, read
`module`         one optimiser step: rates, loss, clipping, average
`schedule`       rates as functions of the step
`average`        the moving average of the weights
`feed`           batches drawn ahead, as tensors
`validation`     held-out frames, the best weights, early stop
`log`            a line a step, TensorBoard, progress bar
`checkpoint`     when state, weights and record are written
`files`          how: whole or not at all, nothing executed when read
`record`         what a run says of itself
`processes`      several devices, one process each (`process` is one of them)
===============  ====================================================================

Lightning handles the steps, the precision and DDP. This package handles the state to resume
from and what determines a step (its batch and its rates).
"""
