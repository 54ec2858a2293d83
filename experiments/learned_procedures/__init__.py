"""Learned procedures under a learner of formal languages: the composed learner."""
