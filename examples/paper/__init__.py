"""The experiments of Amos et al. (2018), "Differentiable MPC for End-to-end Planning and Control", on mpcgen."""
