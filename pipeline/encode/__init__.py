"""Records of the topic `facts` become events, with what the encoder measured of each text."""
