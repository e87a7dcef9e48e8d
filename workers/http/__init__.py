"""`factstream ui`: a local web page on the pipeline. A thin face: what it shows and does are calls of the client and of
the queries; its pages are made on the server, and nothing comes from outside of it."""
