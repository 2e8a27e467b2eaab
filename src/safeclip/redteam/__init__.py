"""Attacks on a retrained encoder: does what was redirected come back when it is asked for in another way?

`runner` measures an attack, `text`, `image` and `model` hold the attacks by what they change, and `attacks`
makes them from the section `red_team` of params.yaml.
"""
