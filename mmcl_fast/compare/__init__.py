"""Many runs as one table: methods beside each other, or COMM with one switch thrown, each with several seeds."""
