"""One file per section of the pages of a report; `page` lists them in their order."""
