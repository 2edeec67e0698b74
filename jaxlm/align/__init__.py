"""Policies and what judges them: rollouts, rewards, and spending more computation on an answer."""
