"""What tests of several folders share: the toy project, the tiny chain, results of stages, real servers."""
