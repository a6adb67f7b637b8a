"""Training workers: one process per device that trains the slots of many trials, and the driver's handle on them.

`pool` is the driver's side and `worker` the Ray actor. In the actor, `training_loop` trains what `slot_table` chooses,
and `trainers` touches tensors.
"""
