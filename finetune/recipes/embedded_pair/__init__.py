"""The recipe of the embedded student and teacher."""
