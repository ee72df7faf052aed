"""What is asked and how it is judged: questions, actions, prompts, rewards, the tiny world."""
