"""Editing with a latent diffusion model: sampling, masks, framing, and all methods to compare, behind one interface."""
