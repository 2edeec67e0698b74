"""What is built on models: retrieval, agents, judges and arenas, cards."""
