"""Attacks on a retrained encoder: does what was redirected come back when it is asked for in another way?"""
