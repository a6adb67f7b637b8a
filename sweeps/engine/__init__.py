"""Training workers: one process per device that trains the slots of many trials, and the driver's handle on them.

`pool` is the driver's side; `worker` is the Ray actor; `slot_table` decides what trains next; `trainers` touches
tensors.
"""
