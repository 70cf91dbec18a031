"""What: one module a stage, its config and a plain function ``(shard, config, store, model) -> ShardReport``."""
