# frozen_string_literal: true

require_relative "lib/realizehit/version"

Gem::Specification.new do |spec|
  spec.name = "realizehit"
  spec.version = Realizehit::VERSION
  spec.authors = ["The realizehit authors"]
  spec.summary = "Publish to a realizehit server and subscribe to it"
  spec.description = "Clients of realizehit, which fans messages out to WebSocket clients by patterns: one publishes " \
                     "over HTTP; one subscribes, connects again by itself, and tells when messages may be missing."
  spec.homepage = "https://github.com/realizehit/realizehit"
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.1"
  spec.metadata = {
    "changelog_uri" => "#{spec.homepage}/blob/main/clients/ruby/CHANGELOG.md",
    "documentation_uri" => "#{spec.homepage}/blob/main/docs/clients/ruby.md",
    "source_code_uri" => "#{spec.homepage}/tree/main/clients/ruby",
    "rubygems_mfa_required" => "true"
  }
  spec.files = Dir.chdir(__dir__) { Dir["lib/**/*.rb"] + %w[CHANGELOG.md LICENSE README.md] }
  spec.require_paths = ["lib"]
  spec.add_runtime_dependency "logger", "~> 1.4"
  spec.add_runtime_dependency "websocket-driver", "~> 0.6", ">= 0.6.3"
end
