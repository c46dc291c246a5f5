"""Where labelled images come from: a reader for each kind of data, all of which give a `Source`."""
