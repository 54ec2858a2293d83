"""Priors distilled into networks that then learn 56 languages (McCoy & Griffiths 2025)."""
