"""M in time: gradients of a recurrent layer's later loss, at the end of a window (Jaderberg et al. 2016)."""
