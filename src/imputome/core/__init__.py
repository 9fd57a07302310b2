"""The base of all methods: data, results, scales, links, the posterior step, and the class of a method."""
