"""The metrics of the evaluation: functions on tensors, sums first and one division last.

Every function returns one value an image (or one result object a set of images) under a name that carries its
definition; ``catalogue`` lists the names. Nothing is imported here, so that ``bootstrap`` loads without torch.
"""
