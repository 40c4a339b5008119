# Sourced by test.sh after setup.sh: a browser of the Chromium family, for the test that looks at the pages of `ccl explain --format html`.
# Exports CCL_BROWSER; what cannot be had ends the run with a message.

browser() {
  if [ -n "${CCL_BROWSER:-}" ]; then return; fi
  local name
  for name in chromium chromium-browser google-chrome-stable google-chrome; do
    if CCL_BROWSER=$(command -v "$name"); then export CCL_BROWSER; return; fi
  done
  install_packages "there is no Chromium, to look at pages with (about 80 MB)" chromium
  if ! CCL_BROWSER=$(command -v chromium); then
    echo "error: the package \`chromium\` brought no browser; set CCL_BROWSER to one of the Chromium family" >&2
    exit 1
  fi
  export CCL_BROWSER
}

browser
