package jwt

// maxCached is about how many bytes of tokens each half of a cache holds; what is kept of a token is a few times as large.
const maxCached = 1 << 20

// cache remembers tokens that were verified: those of the last while, and those of the while before unless nobody asked for them again.
type cache struct {
	young, old map[string]*verified
	bytes      int // of the young's tokens
}

// get returns nil if the token isn't there.
func (c *cache) get(token string) *verified {
	if v := c.young[token]; v != nil {
		return v
	}
	v := c.old[token]
	if v != nil {
		c.put(v)
	}
	return v
}

func (c *cache) put(v *verified) {
	if c.young == nil || c.bytes+len(v.token) > maxCached {
		c.old, c.young, c.bytes = c.young, map[string]*verified{}, 0
	}
	c.young[v.token] = v
	c.bytes += len(v.token)
}
