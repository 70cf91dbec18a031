"""The embedded default of iedit: a small picture world, a web site that serves it, and a small trained model family.

Read in this order: ``vocabulary`` (words), ``sprites`` (pictures of the words), ``world`` (scenes and their truth),
``pairs`` (true edits), ``alt_text`` (captions as the web writes them), ``web`` (the world as LAION-like shards),
``pretrain`` and ``family`` (the models), ``measure`` (what the models reach).
"""
