// Only for the definitions of custom resources that these modules carry; nothing is built.
module antiphon.test/crds

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
