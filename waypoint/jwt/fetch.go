package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/roots"
)

const (
	// maxDocument is the longest set of keys or configuration, in bytes.
	maxDocument = 1 << 20
	// wellKnown is where an issuer says where its keys are (OpenID Connect Discovery section 4).
	wellKnown = "/.well-known/openid-configuration"
)

// address is where keys are fetched.
type address struct {
	url string
	// discover: it is an issuer's name, whose configuration says where its keys are.
	discover bool
	timeout  time.Duration
}

func (k *Keys) fetch(at address) (*keySet, error) {
	ctx, cancel := context.WithTimeout(k.ctx, at.timeout)
	defer cancel()
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	roots.Trust()
	where := at.url
	if at.discover {
		var err error
		if where, err = k.discover(ctx, at.url); err != nil {
			return nil, err
		}
	}
	text, err := k.get(ctx, where)
	if err != nil {
		return nil, err
	}
	set, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return set, nil
}

// discover asks an issuer where its keys are. Its configuration has to be its own, and who names it by https isn't led away from that.
func (k *Keys) discover(ctx context.Context, issuer string) (string, error) {
	at := strings.TrimSuffix(issuer, "/") + wellKnown
	text, err := k.get(ctx, at)
	if err != nil {
		return "", err
	}
	var config struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("%s: %w", at, err)
	}
	if config.Issuer != issuer {
		return "", fmt.Errorf("%s is of issuer %q", at, config.Issuer)
	}
	where, err := url.Parse(config.Keys)
	if err != nil || where.Host == "" || where.Scheme != "https" && !(where.Scheme == "http" && strings.HasPrefix(issuer, "http:")) {
		return "", fmt.Errorf("%s has no jwks_uri that keys can be fetched from: %q", at, config.Keys)
	}
	return config.Keys, nil
}

func (k *Keys) get(ctx context.Context, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	client := *k.client
	client.CheckRedirect = noDowngrade
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %s", at, res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("%s is longer than %d bytes", at, maxDocument)
	}
	return text, nil
}

// noDowngrade follows few redirects, and none from https to http.
func noDowngrade(req *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("redirected more than three times")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s", req.URL)
	}
	return nil
}
