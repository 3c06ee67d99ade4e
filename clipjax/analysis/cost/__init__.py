"""What models cost: operations, params, images a second, and Pareto fronts."""
