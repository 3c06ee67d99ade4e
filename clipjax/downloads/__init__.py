"""Downloads: the files that data cards name, fetched, verified, unpacked and put below the data root."""
