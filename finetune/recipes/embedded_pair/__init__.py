"""The recipe that trains the embedded student and teacher."""
