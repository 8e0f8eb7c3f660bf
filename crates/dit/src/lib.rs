//! The WAN diffusion transformer, SteadyDancer's condition modules and VACE.
