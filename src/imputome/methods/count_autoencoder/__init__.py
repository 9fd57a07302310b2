"""Count autoencoders: ZiPo (Sharifitabar et al. 2024), DCA (Eraslan et al. 2019) and their relatives."""
