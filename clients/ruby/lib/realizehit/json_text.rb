# frozen_string_literal: true

require "json"

module Realizehit
  # JSON, nested as deeply as servers accept it.
  #
  # @api private
  module JSONText
    MAX_NESTING = 1000
    private_constant :MAX_NESTING

    module_function

    # @raise [JSON::ParserError] if it is not JSON, or nested too deeply
    def parse(text)
      JSON.parse(text, max_nesting: MAX_NESTING)
    end

    # @raise [JSON::GeneratorError, JSON::NestingError, EncodingError] if the value cannot be written
    def generate(value)
      JSON.generate(value, max_nesting: MAX_NESTING)
    end
  end
  private_constant :JSONText
end
