package record

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	ivLen     = 12
	maxSecret = sha512.Size384
)

// suite is a cipher suite of TLS 1.3 (RFC 8446 section B.4).
type suite struct {
	hash      func() hash.Hash
	secretLen int // the hash's length, which every secret has
	keyLen    int
	aead      func(key []byte) (cipher.AEAD, error)
}

func suiteOf(id uint16) (suite, error) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return suite{hash: sha256.New, secretLen: sha256.Size, keyLen: 16, aead: newGCM}, nil
	case tls.TLS_AES_256_GCM_SHA384:
		return suite{hash: sha512.New384, secretLen: sha512.Size384, keyLen: 32, aead: newGCM}, nil
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return suite{hash: sha256.New, secretLen: sha256.Size, keyLen: 32, aead: chacha20poly1305.New}, nil
	}
	return suite{}, fmt.Errorf("%s is not a cipher suite of TLS 1.3", tls.CipherSuiteName(id))
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// keys protect one direction. Only the secret, the suite's number and the sequence are state; the rest follows from them.
type keys struct {
	suite    uint16
	aead     cipher.AEAD
	sequence uint64 // of the next record; starts again at 0 with every secret
	iv       [ivLen]byte
	nonce    [ivLen]byte // scratch, so that a record costs no allocation
	secret   [maxSecret]byte
}

func newKeys(s State) (keys, error) {
	k := keys{suite: s.Suite, sequence: s.Sequence}
	suite, err := suiteOf(s.Suite)
	if err != nil {
		return k, err
	}
	if len(s.Secret) != suite.secretLen {
		return k, fmt.Errorf("traffic secret of %d bytes; %s has %d", len(s.Secret), tls.CipherSuiteName(s.Suite), suite.secretLen)
	}
	copy(k.secret[:], s.Secret)
	return k, k.derive(suite)
}

// derive makes key and IV of the secret (RFC 8446 section 7.3).
func (k *keys) derive(s suite) error {
	key, errKey := expandLabel(s, k.secret[:s.secretLen], "key", s.keyLen)
	iv, errIV := expandLabel(s, k.secret[:s.secretLen], "iv", ivLen)
	if err := errors.Join(errKey, errIV); err != nil {
		return err
	}
	defer clear(key)
	copy(k.iv[:], iv)
	clear(iv)
	aead, err := s.aead(key)
	k.aead = aead
	return err
}

// update goes on to the next secret (RFC 8446 section 7.2); the one before is gone.
func (k *keys) update() error {
	s, err := suiteOf(k.suite)
	if err != nil {
		return err
	}
	next, err := expandLabel(s, k.secret[:s.secretLen], "traffic upd", s.secretLen)
	if err != nil {
		return err
	}
	copy(k.secret[:], next)
	clear(next)
	k.sequence = 0
	return k.derive(s)
}

// next returns the nonce of the next record (RFC 8446 section 5.3), good until the next call.
func (k *keys) next() []byte {
	k.nonce = k.iv
	binary.BigEndian.PutUint64(k.nonce[ivLen-8:], binary.BigEndian.Uint64(k.iv[ivLen-8:])^k.sequence)
	k.sequence++
	return k.nonce[:]
}

func (k *keys) state() State {
	s, _ := suiteOf(k.suite) // newKeys knew it
	return State{Suite: k.suite, Secret: append([]byte(nil), k.secret[:s.secretLen]...), Sequence: k.sequence}
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func expandLabel(s suite, secret []byte, label string, n int) ([]byte, error) {
	const prefix = "tls13 "
	info := make([]byte, 0, 32)
	info = binary.BigEndian.AppendUint16(info, uint16(n))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(info, prefix...)
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash, secret, string(info), n)
}
