"""What runs the task runs of a flow: threads or Ray, shard by shard."""
