"""Parts that know no physics: numbers in double precision, checks, messages, files, compiling."""
