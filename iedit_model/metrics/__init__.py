"""The metrics of the evaluation, each registered in its own file; ``catalogue`` lists the files.

An image metric returns one value per edited image, a set metric one number per set. Nothing is imported here, so that
``bootstrap`` loads without torch.
"""
