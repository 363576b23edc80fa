"""The methods: importing this package registers them all."""
